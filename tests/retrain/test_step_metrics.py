from retrain.step_metrics import history_of, one_after_the_other, to_csv, trained_tokens


def test_each_step_is_one_row_whatever_was_logged_of_it() -> None:
    log = [
        {"loss": 2.0, "step": 1, "grad_norm": 1.5, "num_tokens": 10.0},
        {"loss": 1.0, "step": 2, "mean_token_accuracy": 0.5, "num_tokens": 20.0},
        {"eval_loss": 3.0, "step": 2},
        {"train_runtime": 1.0, "step": 2},
    ]
    history = history_of(log)
    assert [row["step"] for row in history] == [1, 2]
    assert to_csv(history).decode().splitlines()[1:] == ["1,2.0,,,", "2,1.0,0.5,3.0,"]


def test_tokens_are_counted_on_where_a_trainer_counts_from_zero_again() -> None:
    first, second = (
        [{"step": 1, "tokens": 100.0}, {"step": 2, "tokens": 200.0}],
        [{"step": 1, "tokens": 50.0}],
    )
    both = one_after_the_other([first, second])
    assert [row["step"] for row in both] == [1, 2, 3]
    assert trained_tokens(both) == 250
    assert trained_tokens([]) is None
