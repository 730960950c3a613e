"""The page that classifies images, and a folder of it that needs no server and no Python.

- `folder`: an app, onnxruntime-web and the page, written as files that a browser can open

``assets`` has the page itself, which `serve` sends too: `index.html`, `style.css`, `icon.svg`,
`app.js`, `camera.js` and `evidence.js`. All answers come from `backend.js`, which asks a server, or
from `local.js`, which computes them in the browser, of the pixels that `pixels.js` decodes.
"""

from pathlib import Path

ASSETS = Path(__file__).parent / "assets"
