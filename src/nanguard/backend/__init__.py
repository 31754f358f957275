"""All that touches TensorFlow's and Keras's private parts, one small module each, tested by name."""
