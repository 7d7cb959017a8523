"""The live session: from public trades to paper orders, journalled, with one known outcome for each intent."""
