"""The installed command `classifier`: every command of the project under one name, loaded when you call it."""

from importlib import import_module
from pathlib import Path
from typing import Any

import click

from scripts import options
from training.commands import Group, as_json, command
from training.outcome import Outcome

OTHERS = "Others, which you need less often"  # listed by their names alone, so that all commands fit a screen
Sections = dict[str, dict[str, tuple[str, str]]]  # by heading and name: the command's place, and what it does
BENCHMARKS: Sections = {
    "Measure": {
        "serving": ("scripts.bench.benchmark:main", "compare the product with what you would build instead"),
        "tune-serving": ("scripts.bench.tune_serving:main", "find workers, batch size and delay for this machine"),
        "training": ("scripts.bench.training_speed:main", "time each measure for speed in training"),
        "scaling": ("scripts.bench.scaling:main", "plan many machines, and simulate a day of autoscaling"),
    }
}
COMMANDS: Sections = {
    "Serve and predict": {
        "serve": ("scripts.serve:main", "serve a model until you press Ctrl-C"),
        "predict": ("scripts.batch_predict:main", "predict many images, a row each in one file"),
        "models": ("scripts.models:main", "list, register, roll and scale served versions"),
        "key": ("scripts.keys:main", "make an API key for a client"),
        "drift": ("scripts.drift:main", "compare the logged predictions with validation"),
        "verify": ("scripts.verify:main", "prove that the served model is the trained one"),
        "doctor": ("scripts.cli:doctor", "find out why it does not serve"),
        "bench": ("scripts.cli:bench", "measure serving, training and scaling"),
    },
    "Train": {
        "check": ("training.check:main", "look at your photos before you train"),
        "feedback": ("training.feedback:main", "review what people told of predictions"),
        "train": ("training.train:main", "train a network as a recipe says"),
        "learn": ("scripts.learn:main", "learn from feedback, and serve the result if it is no worse"),
        "evaluate": ("training.evaluate:main", "measure a checkpoint on the test images"),
        "export": ("training.export:main", "write a checkpoint as TorchScript or ONNX"),
        "archive": ("training.archive:main", "pack a checkpoint to serve it"),
    },
    OTHERS: {
        "data": ("training.data:main", "write CIFAR-10 as a folder of images"),
        "imagenet": ("training.imagenet:main", "make a checkpoint that knows ImageNet's 1,000 classes"),
        "tune": ("training.tune:main", "search for a better recipe"),
        "ensemble": ("training.ensemble:main", "join checkpoints into one"),
        "pair": ("training.pair:main", "join a checkpoint for thumbnails with one for photos"),
        "card": ("training.card:main", "write the model card of a checkpoint"),
    },
}


class Lazy(Group):
    """Commands that are imported when they are called; their group's help needs none of them."""

    def __init__(self, name: str, sections: Sections, **attributes: Any) -> None:
        super().__init__(name, subcommand_metavar="COMMAND [OPTIONS]...", options_metavar="", **attributes)
        self.sections = sections
        self.places = {name: place for section in sections.values() for name, (place, _) in section.items()}
        self.commands = dict.fromkeys(self.places, self)  # their names, which click suggests if you mistype one

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module, _, name = self.places.get(cmd_name, "").partition(":")
        return getattr(import_module(module), name) if module else None

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_paragraph()
        for heading, section in self.sections.items():
            formatter.write_heading(heading)
            with formatter.indentation():
                if heading == OTHERS:
                    formatter.write_text(", ".join(section))
                else:
                    formatter.write_dl([(name, words) for name, (_, words) in section.items()])


@command("doctor")
@options.model
@options.url
@options.product
@as_json
def doctor(model: Path, url: str, config: Path, run: Path) -> Outcome:
    """Find every reason why the product cannot serve, and say how to mend it.

        classifier doctor
        classifier doctor cifar10_cnn
        classifier doctor my.mar --url http://127.0.0.1:5002 --json

    If this command is not installed or does not start, run 'python3 scripts/doctor.py', which needs nothing installed.
    Exit status: 0 nothing is wrong, 1 something is, 2 stopped before the end.
    """
    from scripts.serving import checks

    return checks.doctor(model, url, config, run)


bench = Lazy("bench", BENCHMARKS, help="Measure the product. 'classifier bench COMMAND --help' has examples.")
main = Lazy("classifier", COMMANDS, help="Train, serve and check image classifiers; 'COMMAND --help' has examples.")

if __name__ == "__main__":
    main(prog_name="classifier")
