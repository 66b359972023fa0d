"""Models in memory: those used last, up to a number of bytes. With torch, for one thread."""

from collections import OrderedDict
from collections.abc import Callable

from api.inference.served_version import ServedVersion
from api.problems import Problem
from ode_core.audit.phase_portrait import in_float64
from ode_core.models.classifier import Classifier
from ode_core.models.modified_classifier import with_modified_field
from ode_core.models.steady_classifier import SteadyClassifier
from ode_core.models.weights import WeightsMismatch, load_classifier
from store.errors import BlobCorrupt, NotFound
from store.unit_of_work import Store

CACHE_BYTES = 1024**3


class LoadedModels:
    """Loads model versions and keeps those used last.

    Args:
        store: the weights' source.
        before_evaluation: called before each evaluation of a field; an exception it raises ends the solve.
        cache_bytes: weights kept, at most; the model in use always is.
    """

    def __init__(self, store: Store, before_evaluation: Callable[[], None], *, cache_bytes: int = CACHE_BYTES) -> None:
        self._store = store
        self._before_evaluation = before_evaluation
        self._cache_bytes = cache_bytes
        self._loaded: OrderedDict[str, tuple[SteadyClassifier, int]] = OrderedDict()

    @property
    def versions(self) -> list[str]:
        """Ids of the versions in memory, the one used longest ago first."""
        return list(self._loaded)

    @property
    def bytes(self) -> int:
        """What their weights take."""
        return sum(size for _, size in self._loaded.values())

    def forget(self, version_id: str) -> bool:
        """Free a version's memory; return whether it was there. It is loaded again when it is asked for."""
        return self._loaded.pop(version_id, None) is not None

    def for_explanation(self, served: ServedVersion) -> tuple[Classifier, Classifier]:
        """Return the version's model as it was trained, and in float64; neither is kept.

        Raises:
            Problem: its weights cannot be used.
        """
        model = self._read(served)
        exact = in_float64(model)
        for one in (model, exact):
            one.field.before_evaluation = self._before_evaluation
        return model, exact

    def get(self, served: ServedVersion) -> SteadyClassifier:
        """Return the version's model, from memory or from the database.

        Raises:
            Problem: its weights cannot be used.
        """
        version = served.version
        if version.id in self._loaded:
            self._loaded.move_to_end(version.id)
            return self._loaded[version.id][0]
        model = self._read(served)
        steady = SteadyClassifier(model)
        steady.model.field.before_evaluation = self._before_evaluation
        self._loaded[version.id] = (steady, steady.nbytes)
        while len(self._loaded) > 1 and self.bytes > self._cache_bytes:
            self._loaded.popitem(last=False)
        return steady

    def _read(self, served: ServedVersion) -> Classifier:
        version = served.version
        try:
            weights = self._store.read_blob(version.blob_id)
            model = load_classifier(served.spec.architecture, served.spec.dataset, weights)
            if served.modified_field is not None:
                model = with_modified_field(model, served.modified_field)
            return model
        except (BlobCorrupt, NotFound, WeightsMismatch) as error:
            raise Problem(
                500,
                "weights_damaged",
                f"the weights of {version.model} version {version.version} cannot be used: train it again",
            ) from error
