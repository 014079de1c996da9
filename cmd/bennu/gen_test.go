package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const (
	pollPackage = "bennu.example/examples/typed/poll"
	pollRoutes  = `poll.New("").Routes()`
	pollFiles   = "../../examples/typed/page/channels"
)

// TestGenTS checks that the command writes what the example has, and that it notices a difference.
func TestGenTS(t *testing.T) {
	out := filepath.Join(t.TempDir(), "new", "channels") // the command makes the directory
	wantRun(t, exitOK, "", "gen", "ts", pollPackage, pollRoutes, "-o", out)
	for _, extension := range []string{".mjs", ".d.mts"} {
		got, err := os.ReadFile(out + extension)
		if err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(pollFiles + extension)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s:\n%s\nwant\n%s", extension, got, want)
		}
	}
	wantRun(t, exitOK, "", "gen", "ts", pollPackage, pollRoutes, "-o", out, "--check")
	if err := os.WriteFile(out+".mjs", []byte("// old\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	wantRun(t, exitRefused, "channels.mjs is not current", "gen", "ts", pollPackage, pollRoutes, "-o", out, "--check")
}

func TestGenTSErrors(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		code int
		text string
		args []string
	}{
		"no package":      {exitUsage, "no/such/package", []string{"bennu.example/no/such/package"}},
		"two packages":    {exitUsage, "is not one package", []string{"bennu.example/examples/typed/..."}},
		"a program":       {exitUsage, "is a program", []string{"bennu.example/examples/typed"}},
		"no Routes":       {exitRefused, "undefined: poll.Routes", []string{pollPackage}},
		"not routes":      {exitRefused, "channel.Routes", []string{pollPackage, `poll.New("")`}},
		"no directory":    {exitRefused, "not a directory", []string{pollPackage, pollRoutes, "-o", "gen.go/channels"}},
		"no package name": {exitUsage, "between 1 and 2", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			wantRun(t, c.code, c.text, append([]string{"gen", "ts"}, c.args...)...)
		})
	}
}

// wantRun runs the command, and checks its exit code and that its errors have a text.
func wantRun(t *testing.T, code int, text string, args ...string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	a := &app{stdin: strings.NewReader(""), stdout: &stdout, stderr: &stderr}
	if got := a.run(t.Context(), args); got != code || !strings.Contains(stderr.String(), text) {
		t.Errorf("%v: exit code %d, want %d with %q\n%s%s", args, got, code, text, &stdout, &stderr)
	}
}
