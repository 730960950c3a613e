"""A window that classifies a photo. Needs cnncodes, and the app as app.onnx beside this file.

python window.py [PHOTO]

As one program without Python, with the app inside:
pyinstaller --onefile --windowed --add-data app.onnx:. window.py
"""

import sys
import tkinter as tk
from io import BytesIO
from pathlib import Path
from tkinter import filedialog, ttk

from PIL import Image, ImageOps

from cnncodes import Classifier, CnncodesError

APP = Path(__file__).with_name("app.onnx")  # PyInstaller unpacks it beside this file too
SIDE = 420  # of the photo, in pixels
N_CLASSES = 5


class Window(tk.Tk):
    """A photo, and a bar for each of its most probable classes."""

    def __init__(self) -> None:
        super().__init__()
        self.title("Which photo?")
        self.classifier = Classifier(APP)
        button = ttk.Button(self, text="Choose a photo…", command=self.choose, underline=0)
        button.pack(pady=8)
        button.focus()
        self.bind("<Alt-c>", lambda _: self.choose())
        self.bind("<Return>", lambda _: self.choose())
        self.photo = ttk.Label(self)
        self.photo.pack(padx=8)
        self.answers = ttk.Frame(self, padding=8)
        self.answers.pack(fill="x")
        self.answers.columnconfigure(1, weight=1)

    def choose(self) -> None:
        """Ask for a photo and show it."""
        if path := filedialog.askopenfilename(parent=self, title="Choose a photo"):
            self.show(Path(path))

    def show(self, path: Path) -> None:
        """Show a photo and its classes, or why that cannot be done."""
        for old in self.answers.winfo_children():
            old.destroy()
        self.image: tk.PhotoImage | str = ""  # Tk shows it only while Python holds it
        try:
            predictions = self.classifier.predict(path, top=N_CLASSES)
            photo = ImageOps.exif_transpose(Image.open(path)).convert("RGBA")
        except (CnncodesError, OSError) as error:
            self.title("No photo")
            ttk.Label(self.answers, text=str(error), wraplength=SIDE).grid()
        else:
            photo.thumbnail((SIDE, SIDE))
            photo.save(png := BytesIO(), "PNG")
            self.image = tk.PhotoImage(data=png.getvalue())
            for row, each in enumerate(predictions):
                share = f"{each.probability:.1%}"
                ttk.Label(self.answers, text=each.label).grid(row=row, column=0, sticky="w")
                bar = ttk.Progressbar(self.answers, maximum=1, value=each.probability)
                bar.grid(row=row, column=1, sticky="ew", padx=8, pady=2)
                ttk.Label(self.answers, text=share).grid(row=row, column=2, sticky="e")
            self.title(f"{predictions[0].label} {predictions[0].probability:.1%}: {path.name}")
        self.photo.configure(image=self.image)


window = Window()
if len(sys.argv) > 1:
    window.show(Path(sys.argv[1]))
window.mainloop()
