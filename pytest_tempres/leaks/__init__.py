"""What was left behind, and by whom?"""
