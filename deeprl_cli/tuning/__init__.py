"""Studies of hyper-parameters (`deeprl tune`): what to try next, training it together, what is best in the end."""
