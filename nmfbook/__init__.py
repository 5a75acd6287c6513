"""What only this book needs: experiments, the ledger of what they measured, and the thesis's claims judged by it."""
