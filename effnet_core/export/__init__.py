"""Models in other programs' formats, checked against MindSpore before anybody gets them."""
