"""How good a head or an app is, on images it was not trained on.

- `evaluate`: runs the model on a codes file or on images
- `selection`: which images count, and what is left out
- `metrics`: accuracy, F1, calibration and the confusion matrix
- `evaluation`: the result, as dataclasses and as JSON
- `report`: the result as an HTML page (extra ``report``)
- `charts`: learning curve, reliability diagram and confusion matrix, drawn
- `learning_curve`: accuracy against the number of training images per class
- `curve_plan`: the images that train and test each point of it
- `curve`: a learning curve and its JSON file
"""
