"""Which version a model_id means where several were registered of it."""

from types import SimpleNamespace

import pytest

from jobs.lake.registry import Registry, ResolvedModel
from jobs.settings.settings import Settings
from udfs.errors import RegistryError


class Client:
    """What `find` asks of MLflow; pages of versions in the order given, as registries promise none."""

    def __init__(self, versions: list[tuple[str, str, str]], **aliases: str) -> None:
        self.versions, self.aliases = versions, aliases

    def search_model_versions(self, query: str, page_token: str | None):
        number = int(page_token or 0)

        class Page(list):
            token = str(number + 1) if number + 1 < len(self.versions) else None

        version, model_id, path = self.versions[number]
        tags = {
            "model_id": model_id,
            "checkpoint": path,
            "dim": "4",
            "weights_sha256": "0" * 64,
            "dtype": "float32",
            "profile": "{}",
        }
        return Page([SimpleNamespace(name="gme", version=version, tags=tags, status="READY")])

    def get_registered_model(self, name: str):
        return SimpleNamespace(aliases=self.aliases)


def find(client: Client, monkeypatch) -> ResolvedModel:
    registry = object.__new__(Registry)  # without a store
    registry.settings = Settings()
    monkeypatch.setattr(Registry, "client", client)
    registry._mlflow = SimpleNamespace(exceptions=SimpleNamespace(MlflowException=RuntimeError))
    return registry.find("a" * 16)


def test_of_one_model_in_two_folders_the_newest_counts_unless_the_alias_names_another(monkeypatch):
    """Numbers, not texts, and not in the order in which the registry lists them: 10 is newer than 9."""
    copies = [("10", "a" * 16, "/new"), ("2", "a" * 16, "/old"), ("9", "a" * 16, "/mid")]
    other = ("11", "b" * 16, "/other")
    for listed in (copies, copies[::-1], [other, *copies]):
        found = find(Client(listed), monkeypatch)
        assert (found.version, found.spec.path) == ("10", "/new")
        assert find(Client(listed, challenger="2"), monkeypatch).spec.path == "/new"
        assert find(Client(listed, champion="11"), monkeypatch).spec.path == "/new"
        assert find(Client(listed, champion="2"), monkeypatch).spec.path == "/old"
    with pytest.raises(RegistryError, match=r"no version of model gme has model_id a{16}"):
        find(Client([other]), monkeypatch)
