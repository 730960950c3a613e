"""The experiment this project grew from, repeated on any collection of images by one command.

- `experiment`: codes, softmax layers and logistic heads for each network
- `network`: the steps with one network
- `softmax`: the softmax layer as the published experiment trained it
- `published`: the figures of the published experiment
- `steps`: finished steps with their durations, which a later run reuses
- `result`: the figures, as dataclasses and as JSON
- `page`: the figures as an HTML page with a chart
"""
