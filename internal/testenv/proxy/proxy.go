// Package proxy runs reverse proxies for tests.
package proxy

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"bennu.example/internal/testenv/listen"
	"bennu.example/internal/testenv/require"
)

// Nginx runs nginx until the test ends, and waits until it listens on addr. Content is that of its
// http block, and main, which may be empty, what stands before it, with an events block. It skips
// the test if nginx is not installed.
func Nginx(t testing.TB, addr, main, content string) {
	t.Helper()
	nginx, dir := require.Program(t, "nginx"), t.TempDir()
	var paths strings.Builder
	for _, name := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		fmt.Fprintf(&paths, "%s_temp_path %s;\n", name, filepath.Join(dir, name))
	}
	if main == "" {
		main = "events {}\n"
	}
	config := fmt.Sprintf("daemon off;\nmaster_process off;\npid %s;\n%shttp {\naccess_log off;\n%s%s}\n",
		filepath.Join(dir, "pid"), main, paths.String(), content)
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	Run(t, addr, exec.Command(nginx, "-c", file, "-p", dir, "-e", "stderr"))
}

// Caddy runs Caddy with a Caddyfile until the test ends, and waits until it listens on addr. It
// skips the test if Caddy is not installed.
func Caddy(t testing.TB, addr, caddyfile string) {
	t.Helper()
	caddy, dir := require.Program(t, "caddy"), t.TempDir()
	file := filepath.Join(dir, "Caddyfile")
	if err := os.WriteFile(file, []byte("{\nadmin off\n}\n"+caddyfile), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(caddy, "run", "--config", file, "--adapter", "caddyfile")
	cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_CONFIG_HOME="+dir, "XDG_DATA_HOME="+dir)
	Run(t, addr, cmd)
}

// Run runs a command until the test ends, and waits until it listens on addr.
func Run(t testing.TB, addr string, cmd *exec.Cmd) {
	t.Helper()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() { defer close(exited); _ = cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-exited
		if t.Failed() {
			t.Logf("%s printed:\n%s", filepath.Base(cmd.Path), out.String())
		}
	})
	listen.Await(t, addr, time.Minute, exited)
}
