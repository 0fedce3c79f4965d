"""Which models a set of workers serves, and who is ready for each: derived at once, read at every request.

The registry keeps one until a worker comes, goes, or changes its models or its state.
"""

from collections.abc import Iterable

from msgspec import Struct

from broker_controller.worker_record import RecordState, WorkerRecord
from broker_wire.messages import Ability


class ServedModels(Struct, frozen=True):
    """Names of models, and the workers that take requests for each, in order of registration.

    Attributes:
        all: served by a live worker; one that drains is live.
        multimodal, language: with and without images; two workers may serve the same name differently.
        ready: who takes requests.
        abilities: what some live worker can be asked for, by model.
    """

    all: frozenset[str]
    multimodal: frozenset[str]
    language: frozenset[str]
    ready: dict[str, tuple[WorkerRecord, ...]]
    abilities: dict[str, frozenset[Ability]]

    @classmethod
    def of(cls, workers: Iterable[WorkerRecord]) -> "ServedModels":
        """What these workers serve now."""
        multimodal: set[str] = set()
        language: set[str] = set()
        ready: dict[str, dict[str, WorkerRecord]] = {}
        abilities: dict[str, frozenset[Ability]] = {}
        for record in workers:
            if not record.state.live:
                continue
            for card in record.models:
                (multimodal if Ability.VISION in card.abilities else language).add(card.name)
                abilities[card.name] = abilities.get(card.name, frozenset()) | frozenset(card.abilities)
                if record.state is RecordState.READY:
                    # By name, so that a model announced twice does not make its worker twice as likely.
                    ready.setdefault(card.name, {})[record.name] = record
        return cls(
            frozenset(multimodal | language),
            frozenset(multimodal),
            frozenset(language),
            {model: tuple(records.values()) for model, records in ready.items()},
            abilities,
        )
