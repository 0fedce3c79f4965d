"""instructor: answers of a given form, by a tool or by a schema, whole and as they grow."""

from typing import Any

import instructor
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.acceptance.fleet import RunningController
from tests.acceptance.openai_engine import ADA
from tests.acceptance.openai_questions import Person, user

MODES = [instructor.Mode.TOOLS, instructor.Mode.JSON, instructor.Mode.JSON_SCHEMA]


@pytest.mark.parametrize("mode", MODES)
def test_an_answer_of_a_given_form(talking: RunningController, mode: Any) -> None:
    client = instructor.from_openai(OpenAI(base_url=f"{talking.url}/v1", api_key="none"), mode=mode)
    ada = client.chat.completions.create(model="talker", messages=user("Ada"), response_model=Person)
    assert isinstance(ada, Person)
    assert ada.model_dump() == ADA


@pytest.mark.parametrize("mode", MODES)
async def test_an_answer_that_grows(talking: RunningController, mode: Any) -> None:
    client = instructor.from_openai(AsyncOpenAI(base_url=f"{talking.url}/v1", api_key="none"), mode=mode)
    last: Any = None
    async for last in client.chat.completions.create_partial(
        model="talker", messages=user("Ada"), response_model=Person
    ):
        assert isinstance(last, Person)
    assert last.model_dump() == ADA
