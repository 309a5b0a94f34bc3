"""What scores the chunks of a run, one module an engine.

Each has ``score(bundle, frames)``, which gives the model's output for every frame, in order and of the same height
(an empty frame gives an empty one), and reads ahead only a little.
"""
