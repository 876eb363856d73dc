"""Saliency diagnostics: the callback, its files, measures of groups and figures."""

from promptstage.callbacks.saliency.callback import SaliencyDiagnostics as SaliencyDiagnostics
