"""OpenAI's responses: asked as chats, answered as events, kept in a log, run in the background."""
