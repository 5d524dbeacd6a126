"""One worker process of a fit on this machine; ``local_workers`` starts it.

Arguments: features, embedding, folder to write, file for the result, settings as JSON.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

from components.train.local_workers import INPUT_ERROR, PROGRESS, STEP_PROCESS, write_result
from components.train.settings import TrainSettings
from data_schemas.errors import InputError


def main(arguments: list[str]) -> None:
    """Take part in the fit; write model and result where this is the chief.

    Args:
        arguments: Those of the command line.
    """
    _end_with_step()
    features, embedding, output, result = (Path(argument) for argument in arguments[:4])
    settings = TrainSettings.model_validate_json(arguments[4])

    from components.train.candidate import fit_candidate, help_fitting
    from training.distributed import join_workers

    workers = join_workers(settings, one_machine=True)
    if workers.is_chief:
        write_result(fit_candidate(features, embedding, output, settings, _tell, workers), result)
    else:
        help_fitting(features, embedding, settings, workers)
    workers.wait_for_all()


def _tell(text: str) -> None:
    print(f"{PROGRESS}{text}", flush=True)


def _end_with_step() -> None:
    """End this process when the one that started it is gone, so that a killed step leaves nothing that computes."""
    step = int(os.environ[STEP_PROCESS])

    def watch() -> None:
        while os.getppid() == step:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InputError as error:
        # The last line, which the step takes as its own word.
        print(error, flush=True)
        sys.exit(INPUT_ERROR)
