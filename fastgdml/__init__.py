"""fastgdml: symmetric gradient-domain machine-learned (sGDML) force fields, trained and evaluated fast.

>>> from fastgdml.dataset import load_dataset
>>> from fastgdml.train import GDMLTrain
>>> from fastgdml.predict import GDMLPredict
"""
