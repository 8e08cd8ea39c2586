"""The demonstration's simulated people still teach the new policy through everything that selection leaves out."""

import random

from deploy.demo.people import crowd, react, visits
from deploy.demo.shop import BASE_POLICY, answer
from deploy.demo.story import Plan
from feedback import datasets
from feedback.database import Database
from feedback.policy import read_policy
from retrain.plan import freeze, make_plan
from tests.builders import PROJECT
from tests.retrain.rated_builders import MODEL, Said, kept_share, record

FEEDBACK = 600


def what_visitors_say(seed: int) -> list[Said]:
    """The feedback of the demonstration's first chapter, on answers under the old policy."""
    rng, said = random.Random(seed), []
    for number, (person, question) in enumerate(visits(crowd(seed, 3000), seed)):
        given = answer(question, BASE_POLICY, rng.choice(("polite", "blunt")), rng)
        reaction = react(person, question, given, rng)
        if reaction.rating is not None:
            said.append(
                Said(question.text, given, value=reaction.rating, rater=person.name, minute=number / 50)
            )
        if reaction.demonstration is not None:
            first = said[-1]
            said.append(
                Said(
                    question.text,
                    given,
                    "demonstration",
                    reaction.demonstration,
                    person.name,
                    minute=number / 50,
                    completion_id=first.completion_id,
                    asked=False,
                )
            )
        if len(said) >= FEEDBACK:
            return said
    raise AssertionError("the crowd went home")


async def test_simulated_people_teach_what_changed(database: Database) -> None:
    said = what_visitors_say(0)
    async with database.begin() as connection:
        await record(connection, said, read_policy(Plan().policy()))
        plan = await make_plan(connection, PROJECT, MODEL)
        assert plan.choice.method == "sft", plan.choice.sentences
        dataset = await freeze(connection, plan)
        train = await datasets.rows(connection, dataset.dataset_id, split="train")
        taught = [row for row in train if "14 days" in row.columns["completion"][0]["content"]]
        kept = await kept_share(connection, [one for one in said if one.kind == "demonstration"])
    old = [row for row in train if "30 days" in row.columns["completion"][0]["content"]]
    assert len(taught) > len(train) / 4
    # A few people click the wrong thumb.
    assert len(old) < len(taught) / 10
    assert kept > 0.8
