"""Which customers are about to leave: code as a team might keep it beside ZenML."""
