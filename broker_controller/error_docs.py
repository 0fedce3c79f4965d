"""Writes docs/errors.md from the table: `python -m broker_controller.error_docs > docs/errors.md`."""

import sys

from broker_controller.errors import MEANINGS, REMEDIES


def page() -> str:
    """The whole page."""
    lines = [
        "# Errors",
        "",
        "Made from `broker_controller/errors.py`: `python -m broker_controller.error_docs > docs/errors.md`.",
        "",
        "| what | status | OpenAI type | OpenAI code | LLaVA code | retryable | what to do |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for kind, meaning in MEANINGS.items():
        cells = (
            (kind.__doc__ or "").strip(),
            str(meaning.status.value),
            f"`{meaning.openai_type}`",
            f"`{meaning.openai_code}`",
            str(meaning.llava_code),
            "yes" if meaning.retryable else "no",
            REMEDIES[kind],
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
