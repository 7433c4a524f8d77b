"""Every statement that changes a task, one module per verb. The caller owns the transaction."""
