"""What AnyBEV supplies as ``mmcv._ext``: one function a name, in files by family."""
