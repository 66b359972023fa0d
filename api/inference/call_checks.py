"""Whether calls fit their models, and with which solver each is computed. Without torch."""

from collections.abc import Mapping, Sequence
from contextlib import suppress

from sqlalchemy.exc import SQLAlchemyError

from api.budget_problems import within_budget
from api.chosen_solver import choose_solver
from api.identifiers import VersionReference
from api.inference.prediction_call import AutoSolver, PredictionCall
from api.inference.served_version import Catalogue, ServedVersion
from api.inference.waiting_calls import CheckedCall, Ticket
from api.problems import Problem, invalid
from ode_core.audit.finer_solver import finer_solver
from ode_core.audit.solver_choice import ChosenSolver, SolverChoice
from ode_core.specs import Budget, SolverSpec, check_solve_budget
from store.unit_of_work import Store, Transaction
from store.version_lookup import VersionLookup

_Chosen = tuple[ServedVersion, SolverSpec, ChosenSolver | None]
_Reference = tuple[str, VersionReference]
_MOST_AFFORDABLE = 1024


class CallChecks:
    """Checks calls that arrived together; reads the database once for all, and not at all where it need not.

    Args:
        store: where versions, aliases and what audits found are.
        budget: bounds on rows and evaluations.
    """

    def __init__(self, store: Store, budget: Budget) -> None:
        self._store = store
        self._budget = budget
        self._lookup = VersionLookup(store.engine)
        self._affordable: set[tuple[str, SolverSpec, bool]] = set()  # what was found within the budget
        self.catalogue = Catalogue()

    def close(self) -> None:
        """Give back what is kept of the database."""
        self._lookup.close()

    def __call__(self, tickets: Sequence[Ticket]) -> list[CheckedCall | Exception]:
        """Return the calls with what is needed to compute them, each or why it is refused, in their order."""
        chosen = self._choose([ticket.call for ticket in tickets])
        return [
            one if isinstance(one, Exception) else self._checked(ticket, *one)
            for ticket, one in zip(tickets, chosen, strict=True)
        ]

    def _choose(self, calls: Sequence[PredictionCall]) -> list[_Chosen | Exception]:
        versions = self._kept_versions(calls)
        found = [_with_kept(versions, call) for call in calls]
        if None not in found:
            return [one for one in found if one is not None]
        with self._store.reading() as tx:
            stored = _VersionsOfRound(self.catalogue, tx)
            chosen = [
                self._from_database(stored, call) if one is None else one
                for call, one in zip(calls, found, strict=True)
            ]
        with suppress(SQLAlchemyError):  # these calls have what they need
            self._lookup.connect()
        return chosen

    def _kept_versions(self, calls: Sequence[PredictionCall]) -> dict[_Reference, ServedVersion]:
        """Return the versions that are meant and kept; the database is asked at most which of them is meant."""
        found = {}
        for model, version in {(call.model, call.version) for call in calls}:
            if isinstance(version, int):
                served = self.catalogue.known(model, version)
            else:
                identifier = self._lookup.id_of(model, version)
                served = None if identifier is None else self.catalogue.kept(identifier)
            if served is not None:
                found[model, version] = served
        return found

    def _from_database(self, versions: "_VersionsOfRound", call: PredictionCall) -> _Chosen | Exception:
        try:
            served = versions.find(call.model, call.version)
            call.found.version = served.version
            if isinstance(call.solver, AutoSolver):
                return served, *choose_solver(versions.choice(served), served.version, served.own_solver, call.solver)
        except SQLAlchemyError:
            raise
        except Exception as error:  # what is stored of a version may be damaged: the others' calls are fine
            return error
        return served, call.solver or served.own_solver, None

    def _checked(
        self, ticket: Ticket, served: ServedVersion, solver: SolverSpec, choice: ChosenSolver | None
    ) -> CheckedCall | Exception:
        call, budget = ticket.call, self._budget
        call.found.version = served.version
        try:
            self._check_cost(call, served, solver)
            inputs = call.inputs.checked(
                served.input_shape, max_rows=budget.inference_rows, precision=served.spec.training.precision
            )
            _check_times(call, served, len(inputs), budget)
        except Exception as error:  # mostly a problem, and that of one call alone
            return error
        return CheckedCall(ticket, served, solver, choice, inputs)

    def _check_cost(self, call: PredictionCall, served: ServedVersion, solver: SolverSpec) -> None:
        asked = served.version.id, solver, call.certify
        if asked in self._affordable:
            return
        with within_budget("solver"):
            self._check_solve(served, solver)
        if call.certify and not solver.adaptive:  # a check with tolerances is stopped at the budget, and says so
            with within_budget("certify"):
                self._check_solve(served, finer_solver(solver, served.spec.architecture.end_time))
        if len(self._affordable) >= _MOST_AFFORDABLE:
            self._affordable.clear()
        self._affordable.add(asked)

    def _check_solve(self, served: ServedVersion, solver: SolverSpec) -> None:
        check_solve_budget(
            solver,
            served.spec.architecture.end_time,
            self._budget.inference_evaluations,
            served.state_size,
            each=served.evaluations_in_field,
        )


def _with_kept(versions: Mapping[_Reference, ServedVersion], call: PredictionCall) -> _Chosen | None:
    served = versions.get((call.model, call.version))
    if served is None or isinstance(call.solver, AutoSolver):
        return None
    return served, call.solver or served.own_solver, None


class _VersionsOfRound:
    """What the database says of the versions of one round; each is asked for once."""

    def __init__(self, catalogue: Catalogue, tx: Transaction) -> None:
        self._catalogue = catalogue
        self._tx = tx
        self._found: dict[_Reference, ServedVersion | Problem] = {}
        self._choices: dict[str, SolverChoice | None] = {}

    def find(self, model: str, reference: VersionReference) -> ServedVersion:
        key = model, reference
        if key not in self._found:
            try:
                self._found[key] = self._catalogue.find(self._tx, model, reference)
            except Problem as problem:
                self._found[key] = problem
        found = self._found[key]
        if isinstance(found, Problem):
            raise found
        return found

    def choice(self, served: ServedVersion) -> SolverChoice | None:
        identifier = served.version.id
        if identifier not in self._choices:
            stored = self._tx.solver_choices.of_version(identifier)
            self._choices[identifier] = None if stored is None else SolverChoice.from_json(stored.choice)
        return self._choices[identifier]


def _check_times(call: PredictionCall, served: ServedVersion, rows: int, budget: Budget) -> None:
    if not call.times:
        return
    end = served.spec.architecture.end_time
    if call.times[0] < 0 or call.times[-1] > end:
        raise invalid("times", f"must lie between 0 and {end:g}, the model's interval")
    numbers, most = rows * len(call.times) * served.state_size, budget.state_size
    if numbers > most:
        message = f"{numbers:,} numbers of trajectories exceed the budget of {most:,}: ask for fewer times or inputs"
        raise invalid("times", message, code="budget_exceeded")
