"""What `/docs` says of each endpoint: summary, the body's fields, answers with their headers, examples. Data only."""
