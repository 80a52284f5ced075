"""python -m tests.processes.two_devices: a server with two device processes on the CPU, as with two GPUs."""

import os

from app.processes.supervisor import Supervisor
from app.settings import load_settings
from app.sockets import listen

settings = load_settings()
status = Supervisor(settings, listen(settings.host, settings.port), 2, [settings, settings]).run()
os._exit(1 if status is None else status)
