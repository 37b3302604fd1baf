"""divfeat: the search phase of a study as the command runs it, with ledger, Optuna's storage, MLflow and checkpoints."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.sides.work import CONCURRENT, note, points_of, study_of, words

if __name__ == "__main__":
    folder, trials, epochs = words()
    config = study_of(epochs)
    from divfeat.cluster.executor import RayExecutor
    from divfeat.search.budget import Budget, Limits
    from divfeat.search.command import make_study
    from divfeat.search.interrupt import Interrupt
    from divfeat.search.ledger import Ledger
    from divfeat.search.phases import Phases
    from divfeat.search.proposals import Proposals, storage_url
    from divfeat.search.protocol import objective_metrics
    from divfeat.search.session import Session
    from divfeat.search.subjects import threshold_subject
    from divfeat.study_config import ExecutionConfig
    from divfeat.tracking import Tracker

    execution = ExecutionConfig(
        trials=trials, max_concurrent=CONCURRENT, storage_path=str(folder.resolve()), name="search"
    )
    study = make_study(config, execution, Interrupt())
    data = study.check()
    executor = RayExecutor(workers=1, cpus=1.0, gpus=0.0, address=None, storage=study.folder, max_concurrent=CONCURRENT)
    ledger, budget = Ledger(study.folder), Budget(Limits())
    ledger.open(config)
    executor.begin()
    tracker = Tracker.open(study.folder, study.name)
    session = Session(study, ledger, tracker, executor, data, budget)
    executor.share("search", data)
    tracker.study_run(config.to_dict())
    subject = replace(threshold_subject(config), first=points_of(trials))
    proposals = Proposals(config, ledger, storage_url(study.folder), study.name, subject=subject)
    with session.background, session.progress:
        Phases(study, ledger, executor, data, session.placing, session.progress, budget).search(proposals, trials)
    tracker.finish_study("completed")
    executor.close()
    for row in ledger.proposals().values():
        record = ledger.record(row["key"])
        assert record is not None
        if record["status"] != "completed":
            raise RuntimeError(record["error"])
        seconds = record["provenance"]["seconds"]
        note(
            folder,
            row["key"],
            record["finished"] - seconds,
            record["history"][0]["time"] / 1000,
            record["finished"],
            seconds - record["provenance"]["reporting_seconds"],
            record["metrics"][objective_metrics(config)[0]],
        )
