"""On the line: photographs are judged as they come, from a folder or over HTTP."""
