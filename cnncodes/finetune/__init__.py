"""Training of a network's last layers together with a head, from activations kept on disk.

- `finetune`: `finetune`, the whole of it
- `recipe`: the hyperparameters
- `request`: the parameters, checked
- `cuts`: the layers at which a network can be cut
- `plan`: time, memory and disk, from a short measurement
- `codes`: what the head sees: layers, pools, and how their codes are scaled
- `data`: classes, and which images train, validate and test
- `top`: the layers above the cut as a Keras model
- `apart`: the same in a process of its own
- `training`: the epochs
- `heads`: the logistic heads before and after them
- `checkpoint`: their state on disk
- `parts`: from trained weights to an app, and its check
- `result`: what `finetune` returns

It needs TensorFlow, in a process of its own; what it makes does not.
"""
