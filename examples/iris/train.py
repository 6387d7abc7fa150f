"""Train the classifier of the tutorial on the Iris data set that scikit-learn carries, and save it.

Usage: python train.py [FILE], by default iris_svc.pkl in the current folder.
"""

import pickle
import sys

from sklearn.datasets import load_iris
from sklearn.model_selection import train_test_split
from sklearn.svm import SVC

iris = load_iris()
labels = [f"Iris-{iris.target_names[target]}" for target in iris.target]
train_features, test_features, train_labels, test_labels = train_test_split(
    iris.data, labels, test_size=0.2, random_state=0, stratify=labels
)

model = SVC()
model.fit(train_features, train_labels)
print(f"accuracy on the test set: {model.score(test_features, test_labels):.3f}")

path = sys.argv[1] if len(sys.argv) > 1 else "iris_svc.pkl"
with open(path, "wb") as file:
    pickle.dump(model, file)
print(f"saved to {path}")
