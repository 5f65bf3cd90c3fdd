"""anomalib's command line with ``Fyd`` registered: ``python -m fastalign.integrations.anomalib``.

The arguments are anomalib's own. Its ``benchmark`` command knows no other way to a model of another
package.
"""

from __future__ import annotations

from anomalib.cli.cli import main

from fastalign.integrations.anomalib import register

if __name__ == "__main__":
    register()
    main()
