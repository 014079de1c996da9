package repotest_test

import (
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestDocLinks checks that relative links in the documentation lead to existing files and headings.
func TestDocLinks(t *testing.T) {
	t.Parallel()
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	code := regexp.MustCompile("(?s)```.*?```|`[^`\n]*`")
	for name, text := range documents(t) {
		for _, m := range link.FindAllStringSubmatch(code.ReplaceAllString(text, ""), -1) {
			target, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(target, ":") { // elsewhere on the web
				continue
			}
			file := name
			if target != "" {
				file = path.Join(path.Dir(name), target)
			}
			if _, err := os.Stat(filepath.Join(root(t), filepath.FromSlash(file))); err != nil {
				t.Errorf("%s links to %s, which does not exist", name, m[1])
				continue
			}
			if anchor == "" || !strings.HasSuffix(file, ".md") {
				continue
			}
			if !anchors(string(read(t, filepath.Join(root(t), file))))[anchor] {
				t.Errorf("%s links to %s, but %s has no such heading", name, m[1], file)
			}
		}
	}
}

// TestDocTests holds that the tests, fuzz targets and attacks that the documentation names exist.
func TestDocTests(t *testing.T) {
	t.Parallel()
	declared := map[string]bool{}
	function := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	attack := regexp.MustCompile(`(?m)^\t\{"([^"]+)", `)
	for name, text := range files(t) {
		switch {
		case strings.HasSuffix(name, "_test.go"):
			for _, m := range function.FindAllSubmatch(text, -1) {
				declared[string(m[1])] = true
			}
		case name == "internal/torture/attacks.go":
			for _, m := range attack.FindAllSubmatch(text, -1) {
				declared[string(m[1])] = true
			}
		}
	}
	named := regexp.MustCompile("`((?:Test|Fuzz)[A-Z]\\w+)`|attack “([^”]+)”")
	seen := 0
	for name, text := range documents(t) {
		for _, m := range named.FindAllStringSubmatch(text, -1) {
			seen++
			if !declared[m[1]] && !declared[m[2]] {
				t.Errorf("%s names %s%s, which does not exist", name, m[1], m[2])
			}
		}
	}
	if seen == 0 {
		t.Error("no document names a test: is the expression right?")
	}
}

// TestToolchain checks that all modules name the same toolchain, with its patches. A module's go
// line does not name it, because that would affect the builds of users as well.
func TestToolchain(t *testing.T) {
	t.Parallel()
	line := regexp.MustCompile(`(?m)^toolchain (go\d+\.\d+\.\d+)$`)
	first := ""
	for name, text := range files(t) {
		if base := path.Base(name); base != "go.mod" && base != "go.work" {
			continue
		}
		m := line.FindSubmatch(text)
		switch {
		case m == nil:
			t.Errorf("%s names no toolchain: go mod edit -toolchain=go1.N.P (go.work: go work edit)", name)
		case first == "":
			first = string(m[1])
		case string(m[1]) != first:
			t.Errorf("%s names %s, another module %s", name, m[1], first)
		}
	}
}

// documents returns the Markdown files that users read.
func documents(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for name, text := range files(t) {
		if strings.HasSuffix(name, ".md") && (!strings.Contains(name, "/") || strings.HasPrefix(name, "docs/")) {
			all[name] = string(text)
		}
	}
	return all
}

// anchors returns the anchors of a Markdown file's headings, as GitHub makes them.
func anchors(text string) map[string]bool {
	all := map[string]bool{}
	fenced := false
	for l := range strings.Lines(text) {
		if strings.HasPrefix(l, "```") {
			fenced = !fenced
		}
		heading := strings.TrimLeft(l, "#")
		if fenced || heading == l {
			continue
		}
		anchor := strings.Map(func(c rune) rune {
			switch {
			case c == ' ':
				return '-'
			case c == '-' || c == '_' || c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c > 0x7f:
				return c
			}
			return -1
		}, strings.ToLower(strings.TrimSpace(heading)))
		all[anchor] = true
	}
	return all
}
