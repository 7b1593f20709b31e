"""`python -m training`, run from `contrib/`: each step of making the models, in the order of README.md."""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path

#: Seeds and sizes of the corpora; the shipped models come from these.
_CORPORA = {"development": (2, 200), "test": (3, 200), "training": (1, 24_000)}


def main() -> None:
    """Do what the command line says."""
    options = _parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("faster_whisper").setLevel(logging.WARNING)  # it tells of every sound that it is given
    # Threads that wait by spinning take the core from whoever they wait for; read when torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    options.run(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.add_argument(
        "--work", type=Path, default=Path("build/training"), help="where corpora and checkpoints are kept"
    )
    parser.add_argument("--threads", type=int, default=2, help="of torch; another number gives other weights")
    commands = parser.add_subparsers(required=True)
    for name, run, says in (
        ("synthesise", _synthesise, "speak the corpora"),
        ("speech", _speech, "train the recogniser, from its checkpoint if there is one"),
        ("translation", _translation, "train the translator"),
        ("export", _export, "write both where the package has them"),
        ("demo", _demo, "speak the recording that the package has"),
    ):
        commands.add_parser(name, help=says).set_defaults(run=run)
    evaluate = commands.add_parser("evaluate", help="judge what the package has, and write its card")
    evaluate.add_argument("--development", action="store_true", help="with other voices than the test's, and no card")
    evaluate.set_defaults(run=_evaluate)
    return parser


def _synthesise(options: argparse.Namespace) -> None:
    from training import corpus

    for name, (seed, count) in _CORPORA.items():
        corpus.build(options.work / "corpus", name, count, seed=seed, processes=options.threads)


def _speech(options: argparse.Namespace) -> None:
    import torch

    from training.corpus import Corpus
    from training.speech import Plan, Trainer

    torch.set_num_threads(options.threads)
    trainer = Trainer(Corpus(options.work / "corpus", "training"), Plan())
    trainer.run(options.work / "speech.pt")


def _translation(options: argparse.Namespace) -> None:
    import torch

    from training import translation

    torch.set_num_threads(options.threads)
    plan = translation.Plan()
    trainer = translation.Trainer(translation.pieces(options.work / "spm.model", seed=plan.seed), plan)
    trainer.run()
    torch.save(trainer.network.state_dict(), options.work / "translation.pt")


def _export(options: argparse.Namespace) -> None:
    from sentencepiece import SentencePieceProcessor
    from streamtask_contrib.models import SPEECH, TRANSLATION

    from training import export, speech, translation
    from training.tokens import Tokens

    tokens, pieces = Tokens(), options.work / "spm.model"
    export.speech(speech.trained(options.work / "speech.pt", tokens), tokens, SPEECH)
    network = translation.trained(options.work / "translation.pt", SentencePieceProcessor(model_file=str(pieces)))
    export.translation(network, pieces, TRANSLATION)


def _evaluate(options: argparse.Namespace) -> None:
    from streamtask_contrib import models

    from training import card, evaluate, speech, translation
    from training.corpus import Corpus

    corpus = Corpus(options.work / "corpus", "development" if options.development else "test")
    heard = evaluate.speech(models.SPEECH, corpus, tell=print)
    translated = evaluate.translation(models.TRANSLATION, count=1000, tell=print)
    if options.development:
        return
    results = {
        "speech": heard,
        "translation": translated,
        "bytes": {"speech": _size(models.SPEECH), "translation": _size(models.TRANSLATION)},
        "training": {
            "utterances": _CORPORA["training"][1],
            "speech": {"steps": speech.Plan().steps, "seed": speech.Plan().seed},
            "translation": {"steps": translation.Plan().steps, "seed": translation.Plan().seed},
        },
    }
    card.write(Path(models.__file__).parent, results)


def _demo(_: argparse.Namespace) -> None:
    import streamtask_contrib

    from training import demo

    demo.write(Path(next(iter(streamtask_contrib.__path__))) / "demo")


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


if __name__ == "__main__":
    main()
