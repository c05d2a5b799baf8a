"""Measures an encoder: kNN, linear probe, fine-tuning, SVM, few-shot, retrieval, dense tasks."""
