"""Planning studies now, from their backbone, tasks and methods as they are; notes on what was planned."""

from __future__ import annotations

import networkx as nx

from deltacompose import registry
from deltacompose.analysis.subspace.dimension_search import most_tries
from deltacompose.cells.study_facts import facts
from deltacompose.cells.study_facts import notes as notes_of
from deltacompose.errors import BadInput
from deltacompose.planning import plan as planning
from deltacompose.planning import search_cells as search
from deltacompose.planning.plan import Prepared
from deltacompose.store.store import Store
from deltacompose.study.config import KEYS, Study


def prepare(study: Study | Prepared, store: Store | None = None) -> Prepared:
    """A study with its facts and its plan, which every other function here takes in place of the study.

    Reading the backbone and the data of a large study takes minutes; so a caller of several functions prepares it once.

    Args:
        store: if given, the plan also has the cells that finished cells have added, and its keys have the store's
            version. It has no effect on a study that is already prepared.

    Raises:
        BadInput: the study names something that does not exist, or has settings that fit none of its compositions.
    """
    if isinstance(study, Prepared):
        return study
    prepared = prepared_now(study, KEYS if store is None else store.format)
    return prepared if store is None else prepared.grown(store.intact)


def prepared_now(study: Study, version: int = KEYS) -> Prepared:
    """A study with its facts, found now, and its plan, without the cells that finished cells add.

    Args:
        version: of the keys of its cells.
    """
    _check_training(study, max(len(registry.parse(text).stages) for text in study.compositions))
    return planning.prepare(study, facts(study, version), registry.parse)


def plan(study: Study | Prepared, store: Store | None = None) -> nx.DiGraph:
    """The cells of a study, a directed graph with an edge from each cell to those that read it.

    With a store, the graph also has the cells that finished cells have added, so that it covers all cells of the study
    in the store, and the keys have the store's version.

    >>> study = dc.Study("pair", ["sentiment_movie", "intent"], ["lora"], transfer=True, **tiny)
    >>> graph = dc.plan(study)
    >>> len(graph), sum(graph.nodes[key]["cell"].kind == "train" for key in graph)
    (10, 2)
    """
    prepared = prepare(study, store)
    if store is not None and prepared.facts.absent:
        raise BadInput(
            f"cannot tell which cells of study {prepared.study.name!r} are in {store.root} because "
            f"{prepared.facts.absent}; give the store alone to read all of it"
        )
    return prepared.plan


def _check_training(study: Study, stages: int) -> None:
    """Checks the settings of stages and the learning rates against the compositions and the methods.

    Raises:
        BadInput: more stages have settings than any composition has, or a learning rate names an unknown method.
    """
    if len(study.stages) > stages:
        limit = f"at most {stages} stages" if stages > 1 else "one stage each"
        raise BadInput(
            f"study {study.name!r} has settings for {len(study.stages)} stages; its compositions have {limit}"
        )
    for stage in range(stages):
        registry.check_rates(study.recipe(stage))


def notes_now(prepared: Prepared) -> list[str]:
    """The sentences of `notes`, found now."""
    return [*notes_of(prepared.study), *_of_beginnings(prepared.study), *_of_searches(prepared)]


def _of_beginnings(study: Study) -> list[str]:
    """A sentence on the trainings saved because sequences with the same first stages share them."""
    expressions = [registry.parse(text) for text in study.compositions]
    apart = sum(len(expression.stages) for expression in expressions)
    together = len({str(whole.until(stage + 1)) for whole in expressions for stage in range(len(whole.stages))})
    each = len(study.tasks) * len(study.seeds) * len(study.grid)
    if together == apart:
        return []
    return [
        f"sequences with the same first stages share their training: {together * each} trainings of a stage in place "
        f"of {apart * each}"
    ]


def _of_searches(prepared: Prepared) -> list[str]:
    """Sentences on the searches for the intrinsic dimension: how many cells they add, and what they cost."""
    study = prepared.study
    chosen, expressions = study.dimension, search.greatest(study.dimension)
    if chosen is None:
        return []
    searches, each = len(study.tasks) * len(expressions), most_tries(chosen.most, chosen.resolution, goals=4)
    sentences = [
        f"{searches} searches for the intrinsic dimension add cells while they run, at most "
        f"{searches * each * len(study.seeds) * len(study.grid)} trainings in total; only those already in the plan "
        "are counted"
    ]
    if chosen.warm_start:
        sentences.append(
            "each training starts from the solution at the next lower d, so the training budget differs between d"
        )
    if "dense" in chosen.projections:
        onto = prepared.facts.deltas[str(registry.parse(expressions[0]))].dense
        size = f"{4 * onto * chosen.most / 1e9:.2g} GB at d = {chosen.most}"
        sentences.append(f"a dense projection takes {size}, in memory and on disk for each delta that it trained")
    return sentences
