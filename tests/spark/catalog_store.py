"""A model registry under the rules of Databricks' Unity Catalog, on SQLite.

The rules are those of mlflow/store/_unity_catalog/registry/rest_store.py (3.17): `create_registered_model` refuses
names without three levels ("specify all three levels"), `create_model_version` checks the signature
(`_validate_model_signature`) and takes no run_link, `search_model_versions` takes "a single filter condition", no
order_by, and builds its results without tags and aliases (`model_version_search_from_uc_proto`, which is
mlflow/utils/_unity_catalog_utils.py), `search_registered_models` takes no filter, and stages do not exist.
"""

import re

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST
from mlflow.store._unity_catalog.registry.rest_store import UcModelRegistryStore
from mlflow.store.entities.paged_list import PagedList
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
from mlflow.tracking.artifact_utils import _download_artifact_from_uri
from mlflow.utils._unity_catalog_utils import split_uc_model_name

_CONDITION = re.compile(r"""(name|run_id)\s*=\s*('[^']*'|"[^"]*")""")


class CatalogStore(SqlAlchemyStore):
    """What a workspace would refuse is refused; `before_create` lets a test act for somebody else."""

    before_create = None

    def create_registered_model(self, name, *args, **kwargs):
        split_uc_model_name(name)
        return super().create_registered_model(name, *args, **kwargs)

    def create_model_version(self, name, source, *args, local_model_path=None, **kwargs):
        split_uc_model_name(name)
        assert kwargs.get("run_link") is None
        folder = local_model_path or _download_artifact_from_uri(source)
        UcModelRegistryStore._validate_model_signature(None, folder)
        if CatalogStore.before_create is not None:
            act, CatalogStore.before_create = CatalogStore.before_create, None
            act()
        return super().create_model_version(name, source, *args, **kwargs)

    def search_model_versions(
        self, filter_string=None, max_results=None, order_by=None, page_token=None
    ):
        condition = _CONDITION.fullmatch(filter_string or "")
        if order_by or condition is None:
            said = f"Unsupported query {filter_string!r}, order by {order_by}"
            raise MlflowException(said, error_code=INVALID_PARAMETER_VALUE)
        if condition[1] == "name":
            name = condition[2][1:-1]
            split_uc_model_name(name)
            self._exists(name)
        found = super().search_model_versions(filter_string, 1, None, page_token)  # small pages
        for version in found:
            version._tags, version._aliases = {}, []
        return PagedList(found, found.token)

    def search_registered_models(self, filter_string=None, *args, **kwargs):
        assert filter_string is None and not kwargs.get("order_by")
        return super().search_registered_models(filter_string, *args, **kwargs)

    def get_latest_versions(self, name, stages=None):
        raise MlflowException("there are no stages in Unity Catalog")

    transition_model_version_stage = get_latest_versions

    def _exists(self, name):
        try:
            super().get_registered_model(name)
        except MlflowException as error:
            said = f"Routine or Model '{name}' does not exist."
            raise MlflowException(said, error_code=RESOURCE_DOES_NOT_EXIST) from error
