"""Categories of the tasks of a store whose study is not finished."""

from made_up_study import CATEGORIES, TASKS, failed, study

from deltacompose import api
from deltacompose.analysis.transfer.findings import gather


class Labelled:
    """A store of which only the categories of its latest run are asked."""

    def labels(self):
        return CATEGORIES


def test_tasks_that_were_trained_and_not_evaluated_have_their_category():
    unread = [record for record in study() if record["spec"].get("target") != TASKS[0]]
    categories = api.categories_of(unread, Labelled())
    assert categories == CATEGORIES
    assert gather(unread, categories).matrices["lora"].categories == CATEGORIES


def test_tasks_whose_evaluations_failed_have_their_category():
    records = [failed(record) if record["spec"].get("target") == TASKS[0] else record for record in study()]
    assert api.categories_of(records, Labelled())[TASKS[0]] == CATEGORIES[TASKS[0]]


def test_sources_without_a_category_leave_the_others_theirs():
    one = [record for record in study() if record["spec"].get("target") != TASKS[0]]
    mixed = [{**record, "spec": {**record["spec"], "source": "a+b"}} for record in one[-1:]]
    assert api.categories_of([*one, *mixed], Labelled()) == CATEGORIES
