"""What the losses of one kind share: decorators that turn the math of a pair, a list or a completion into a `Loss`."""
