//go:build !race

package interop_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"bennu.example/internal/testenv/guide"
	"bennu.example/internal/testenv/require"
)

// TestSystemdUnit has systemd verify the unit of the guide.
func TestSystemdUnit(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("systemd is for Linux")
	}
	analyze := require.Program(t, "systemd-analyze")
	unit := strings.Replace(guide.Blocks(t, proxyGuide, "ini")[0], "/usr/local/bin/chat", os.Args[0], 1)
	file := filepath.Join(t.TempDir(), "chat.service")
	if err := os.WriteFile(file, []byte(unit), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(analyze, "verify", file).CombinedOutput()
	if err != nil || strings.Contains(string(out), file) {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestKernelSettings checks that the kernel has the settings of the guide.
func TestKernelSettings(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("the settings are those of Linux")
	}
	found := 0
	setting := regexp.MustCompile(`(?m)^(net\.[a-z0-9_.]+) = [0-9 ]+$`)
	for _, block := range guide.Blocks(t, proxyGuide, "text") {
		for _, m := range setting.FindAllStringSubmatch(block, -1) {
			found++
			file := filepath.Join("/proc/sys", strings.ReplaceAll(m[1], ".", "/"))
			// The table of connections is a module. A container may hide what is not its own.
			if _, err := os.Stat(file); err != nil && !strings.HasPrefix(m[1], "net.netfilter.") {
				if _, err := os.Stat(filepath.Dir(file)); err == nil {
					t.Errorf("there is no setting %s", m[1])
				}
			}
		}
	}
	if found < 4 {
		t.Errorf("the guide has %d settings", found)
	}
}

// TestDockerfile checks what the Dockerfile of the guide relies on: the program that it builds and
// starts exists, and needs no C library, which an image from scratch does not have. The test does
// not build it, which takes minutes without a cache.
func TestDockerfile(t *testing.T) {
	t.Parallel()
	file := guide.Blocks(t, proxyGuide, "dockerfile")[0]
	build := regexp.MustCompile(`(?m)^RUN (CGO_ENABLED=0) go build .* -o (/chat) (\./\S+)$`).FindStringSubmatch(file)
	if build == nil || !strings.Contains(file, `ENTRYPOINT ["`+build[2]+`", "-addr", ":4000"]`) ||
		!strings.Contains(file, "COPY --from=build "+build[2]+" "+build[2]+"\n") {
		t.Fatalf("the test does not know this Dockerfile:\n%s", file)
	}
	list := exec.Command("go", "list", "-deps", "-f", "{{if .CgoFiles}}{{.ImportPath}}{{end}}", build[3])
	list.Dir = filepath.Join("..", "..")
	list.Env = append(os.Environ(), build[1], "GOOS=linux")
	if out, err := list.CombinedOutput(); err != nil || strings.TrimSpace(string(out)) != "" {
		t.Errorf("these packages need C: %s, %v", out, err)
	}
	source, err := os.ReadFile(filepath.Join(list.Dir, build[3], "main.go"))
	if err != nil || !strings.Contains(string(source), `flag.String("addr"`) {
		t.Errorf("the program does not have the flag -addr: %v", err)
	}
}
