package interop_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"bennu.example/internal/testenv/require"
)

// modules returns the directory that contains node_modules as specified by the lock file. It is
// installed once, in a directory named after the lock file's hash. The installation is moved into
// place atomically, so that concurrent test runs do not interfere.
func modules(t *testing.T) string {
	t.Helper()
	npm := require.Program(t, "npm")
	require.Program(t, "node")
	dir, err := install(npm)
	if err != nil {
		require.Missing(t, "the packages of package.json: "+err.Error())
	}
	return dir
}

var (
	installOnce sync.Once
	installed   string
	errInstall  error
)

func install(npm string) (string, error) {
	installOnce.Do(func() { installed, errInstall = installFrom(npm) })
	return installed, errInstall
}

func installFrom(npm string) (string, error) {
	lock, err := os.ReadFile("package-lock.json")
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	sum := sha256.Sum256(lock)
	dir := filepath.Join(cache, "bennu", "interop-"+hex.EncodeToString(sum[:6]))
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), "installing-*")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	for _, name := range []string{"package.json", "package-lock.json", ".npmrc"} {
		data, err := os.ReadFile(name)
		if err == nil {
			err = os.WriteFile(filepath.Join(tmp, name), data, 0o644)
		}
		if err != nil {
			return "", err
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, npm, "ci", "--no-audit", "--no-fund")
	cmd.Dir = tmp
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", &installError{err: err, output: string(out)}
	}
	if err := os.Rename(tmp, dir); err != nil {
		if _, other := os.Stat(dir); other != nil { // otherwise another run was first
			return "", err
		}
	}
	return dir, nil
}

type installError struct {
	err    error
	output string
}

func (e *installError) Error() string { return "npm ci: " + e.err.Error() + "\n" + e.output }
func (e *installError) Unwrap() error { return e.err }
