"""What a fine-tuning job leaves beside its model: the file of its step metrics, and how many tokens it trained on.

Safe to repeat: the file's id follows from the run's, and its content from the training.
"""

from io import BytesIO

from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import fine_tuning, uploads
from feedback.adapters import AUTOMATIC_ACTOR
from feedback.errors import NotFound
from feedback.runs import Run
from feedback.uploads import FileStore
from retrain.step_metrics import to_csv, trained_tokens
from retrain.training import TrainingResult

FILENAME = "step_metrics.csv"


async def keep_job_results(
    connection: AsyncConnection, run: Run, result: TrainingResult, store: FileStore
) -> None:
    """Write the result file of the job that drives `run`; nothing where no job does."""
    job = await fine_tuning.of_run(connection, run.project, run.run_id)
    if job is None:
        return
    file_id = f"file-{run.run_id.partition('-')[2]}"
    stored = store.write(file_id, BytesIO(to_csv(result.history)))
    try:
        await uploads.get(connection, run.project, file_id)
    except NotFound:
        await uploads.create(
            connection,
            file_id=file_id,
            project=run.project,
            filename=FILENAME,
            purpose=uploads.RESULTS_PURPOSE,
            stored=stored,
            by=AUTOMATIC_ACTOR,
        )
    await fine_tuning.keep_results(
        connection, job, result_files=[file_id], trained_tokens=trained_tokens(result.history)
    )
