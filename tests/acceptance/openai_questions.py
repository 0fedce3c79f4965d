"""What the tests of client libraries ask `openai_engine`, and what it answers."""

from typing import Any

from pydantic import BaseModel

COUNTED = "0 1 2 3 4 5 "


class Person(BaseModel):
    """What the model is asked for."""

    name: str
    age: int


WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def user(text: Any) -> Any:
    return [{"role": "user", "content": text}]
