package repotest_test

// pendingProse are the files and directories whose comments and texts have not been rewritten yet.
var pendingProse = []string{}

// pendingCode are the files and directories in which code is wider than maxCode.
var pendingCode = []string{}
