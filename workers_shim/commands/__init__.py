"""The engines on the command line, one a file: their options, and how a worker gets their models.

Nothing here imports an engine before it is asked for, so the program works with the base install.
"""

from workers_shim.commands.command import EngineCommand
from workers_shim.commands.echo import ECHO
from workers_shim.commands.http import HTTP
from workers_shim.commands.llamacpp import LLAMACPP
from workers_shim.commands.openai import OPENAI
from workers_shim.commands.run import RUN
from workers_shim.commands.transformers import TRANSFORMERS

COMMANDS: tuple[EngineCommand, ...] = (ECHO, LLAMACPP, TRANSFORMERS, OPENAI, HTTP, RUN)
"""In the order of `--help`."""
