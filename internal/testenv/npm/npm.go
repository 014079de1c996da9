// Package npm installs the packages from npm that some tests need: versions of phoenix.js, a
// WebSocket for Node, TypeScript, and Yjs. package.json lists them.
package npm

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"bennu.example/internal/testenv/require"
)

//go:embed package.json package-lock.json .npmrc
var files embed.FS

// Modules returns the directory that contains node_modules as specified by the lock file. It is
// installed once, in a directory named after the lock file's hash. The installation is moved into
// place atomically, so that concurrent test runs do not interfere.
//
// If Node, npm or the registry is missing, the test ends as described at [require.Missing].
func Modules(t testing.TB) string {
	t.Helper()
	npm := require.Program(t, "npm")
	require.Program(t, "node")
	installOnce.Do(func() { installed, errInstall = install(npm) })
	if errInstall != nil {
		require.Missing(t, "the packages of internal/testenv/npm: "+errInstall.Error())
	}
	return installed
}

// Phoenix returns the file of the stock phoenix.js, as an ES module.
func Phoenix(t testing.TB) string {
	t.Helper()
	return filepath.Join(Modules(t), "node_modules", "phoenix", "priv", "static", "phoenix.mjs")
}

var (
	installOnce sync.Once
	installed   string
	errInstall  error
)

func install(npm string) (string, error) {
	lock, err := files.ReadFile("package-lock.json")
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	sum := sha256.Sum256(lock)
	dir := filepath.Join(cache, "bennu", "npm-"+hex.EncodeToString(sum[:6]))
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
	if err := os.CopyFS(tmp, files); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, npm, "ci", "--no-audit", "--no-fund")
	cmd.Dir = tmp
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("npm ci: %w\n%s", err, out)
	}
	if err := os.Rename(tmp, dir); err != nil {
		if _, other := os.Stat(dir); other != nil { // otherwise another run was first
			return "", err
		}
	}
	return dir, nil
}
