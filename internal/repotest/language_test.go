//go:build !race

// These tests only read the source, which takes a minute with the race detector.

package repotest_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// Widths in columns. A tab counts as one column.
const (
	maxProse = 100 // comments and Markdown
	maxCode  = 120
)

// TestLanguage checks the rules of style that a program can check: the width of lines, the spelling
// of defaults, and phrases of the dialect in which the project was first written.
func TestLanguage(t *testing.T) {
	t.Parallel()
	all := files(t)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		var problems []string
		switch text := string(all[name]); filepath.Ext(name) {
		case ".go":
			prose, code := checkSource(t, name, text)
			problems = append(prose, code...)
		case ".mjs", ".js":
			problems = checkScript(text)
		case ".md":
			problems = checkMarkdown(text)
		}
		for _, p := range problems {
			t.Errorf("%s:%s", name, p)
		}
	}
}

// checkSource returns the problems of comments and texts, and those of code, each as
// "line: problem".
func checkSource(t *testing.T, name, text string) (prose, code []string) {
	t.Helper()
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, name, text, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	add := func(to *[]string, line int, problems ...string) {
		for _, p := range problems {
			*to = append(*to, fmt.Sprintf("%d: %s", line, p))
		}
	}
	for i, line := range strings.Split(text, "\n") {
		columns := utf8.RuneCountInString(line)
		comment := strings.HasPrefix(strings.TrimLeft(line, "\t"), "// ")
		switch {
		case comment && columns > maxProse && !unbreakable(line):
			add(&prose, i+1, fmt.Sprintf("comment has %d columns, more than %d", columns, maxProse))
		case !comment && columns > maxCode && !strings.Contains(line, "://"):
			add(&code, i+1, fmt.Sprintf("code has %d columns, more than %d", columns, maxCode))
		}
	}
	for _, group := range file.Comments {
		if doc := group.Text(); !strings.HasPrefix(doc, "Output:") && !strings.HasPrefix(doc, "Unordered output:") {
			add(&prose, set.Position(group.Pos()).Line, phrases(doc)...)
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok || len(call.Args) == 0 {
			return true
		}
		f, isMethod := call.Fun.(*ast.SelectorExpr)
		lit, isLit := call.Args[0].(*ast.BasicLit)
		if !isMethod || !isLit || lit.Kind != token.STRING {
			return true
		}
		s, err := strconv.Unquote(lit.Value)
		if err != nil {
			return true
		}
		line := set.Position(lit.Pos()).Line
		x, _ := f.X.(*ast.Ident)
		switch {
		case f.Sel.Name == "Msg":
			if r, _ := utf8.DecodeRuneInString(s); unicode.IsUpper(r) {
				add(&prose, line, "log message begins with a capital letter")
			}
			add(&prose, line, phrases(s)...)
		case x != nil && (x.Name == "fmt" && f.Sel.Name == "Errorf" || x.Name == "errors" && f.Sel.Name == "New"):
			add(&prose, line, phrases(s)...)
		}
		return true
	})
	return prose, code
}

// checkScript returns the problems of the comments of JavaScript.
func checkScript(text string) (problems []string) {
	for i, line := range strings.Split(text, "\n") {
		_, comment, found := strings.Cut(line, "// ")
		if !found {
			comment = strings.TrimLeft(line, " \t/*")
			found = strings.HasPrefix(strings.TrimSpace(line), "/*") || strings.HasPrefix(strings.TrimSpace(line), "* ")
		}
		if !found {
			continue
		}
		if n := utf8.RuneCountInString(line); n > maxProse && !unbreakable(line) {
			problems = append(problems, fmt.Sprintf("%d: comment has %d columns, more than %d", i+1, n, maxProse))
		}
		for _, p := range phrases(comment) {
			problems = append(problems, fmt.Sprintf("%d: %s", i+1, p))
		}
	}
	return problems
}

// checkMarkdown returns the problems of Markdown outside of code blocks. The rows of tables may
// have any width.
func checkMarkdown(text string) (problems []string) {
	inCode := false
	for i, line := range strings.Split(text, "\n") {
		if strings.HasPrefix(strings.TrimSpace(line), "```") {
			inCode = !inCode
		}
		if inCode {
			continue
		}
		n := utf8.RuneCountInString(line)
		if n > maxProse && !strings.HasPrefix(strings.TrimSpace(line), "|") && !unbreakable(line) {
			problems = append(problems, fmt.Sprintf("%d: line has %d columns, more than %d", i+1, n, maxProse))
		}
		for _, p := range phrases(line) {
			problems = append(problems, fmt.Sprintf("%d: %s", i+1, p))
		}
	}
	return problems
}

// unbreakable reports whether a line is long because of an address.
func unbreakable(line string) bool { return strings.Contains(line, "://") }

// dialect are the patterns that prose must not contain. The first group is what is reported; the
// second is what to write instead.
var dialect = []struct{ pattern, instead string }{
	{`(?i)\blikewise\b`, "say what it is"},
	{`(?i)\bfor ever\b`, `"forever", or a bound`},
	{`(?i)\bthat is none\b`, `"a malformed …" or "an invalid …"`},
	{`(?i)\bin(?: [\w']+){1,3} stead\b`, `"instead of …"`},
	{`(?i)\bby way of\b`, `"through" or "with"`},
	{`(?i)\band the like\b`, "name them, or nothing"},
	{`(?i)\bbesides\b`, `"in addition", "also"`},
	{`\bsays [A-Z]\w+\b`, `"X determines …"`},
	{`\bhas \w+ called\b`, `"registers f to be called"`},
	{`(?i)\bis told (?:of|what|that|to|by)\b`, `"receives", "is notified"`},
	{`(?:^|[.:;] )(?:Who|What) [^?]*?(?:[.]|$)`, "name the actor"},
	{`(?i)(?:^|[.;(] ?)0(?: is|:) [^=]`, `"Zero means …"`},
	{`(?i)(?:^|[.;(] ?)nil(?: is|:) `, `"Nil means …"`},
	{`(?:^|[.;(] ?)(?:Empty|empty|"")(?: is|:) `, `"Empty means …"`},
}

var (
	patterns = func() (all []*regexp.Regexp) {
		for _, d := range dialect {
			all = append(all, regexp.MustCompile(d.pattern))
		}
		return all
	}()
	isNo = regexp.MustCompile(`(\w+) is no (\w+)`)
	// plainNo are the words after "is no" in idioms that are plain English.
	plainNo = []string{
		"longer", "more", "other", "such", "later", "earlier", "larger", "less", "need", "way", "better", "worse",
	}
)

// phrases returns the problems of a text. It ignores indented lines, which are code.
func phrases(text string) (problems []string) {
	var prose []string
	for line := range strings.SplitSeq(text, "\n") {
		if !strings.HasPrefix(line, "\t") {
			prose = append(prose, strings.TrimSpace(line))
		}
	}
	text = strings.TrimSpace(strings.Join(prose, " "))
	for i, p := range patterns {
		if found := p.FindString(text); found != "" {
			problems = append(problems, fmt.Sprintf("%.40q: write %s", found, dialect[i].instead))
		}
	}
	for _, m := range isNo.FindAllStringSubmatch(text, -1) {
		if !strings.EqualFold(m[1], "there") && !slices.Contains(plainNo, m[2]) {
			problems = append(problems, fmt.Sprintf("%q: write %q", m[0], m[1]+" is not a "+m[2]))
		}
	}
	return problems
}

func TestPhrases(t *testing.T) {
	t.Parallel()
	for text, bad := range map[string]bool{
		"Nil means 10 s. Zero means 1 MiB. Empty means the host.":      false,
		"It returns nil if there is no limit, and is no longer valid.": false,
		"What is this? See below.":                                     false,
		"Errors besides io.EOF are returned.":                          true,
		"Run it. Who calls it must close it.":                          true,
		"What is left ends.":                                           true,
		"The limit. 0 is 1 MiB.":                                       true,
		"The limit.\n0: 30 s.":                                         true,
		"nil: silent":                                                  true,
		"Logger; nil is silent.":                                       true,
		"prefix %q is no subject":                                      true,
		"There is no subject. If x is nil: see y.":                     false,
		"What happens then says OnSlow.":                               true,
		"x\n\tnil: code is ignored":                                    false,
		"It answers in the callback's stead.":                          true,
	} {
		if got := phrases(text); (len(got) > 0) != bad {
			t.Errorf("%q: %q", text, got)
		}
	}
	long := strings.Repeat("word ", 21)
	if got := checkMarkdown("| " + long + "\n```\n" + long + "\n```\nshort"); len(got) > 0 {
		t.Errorf("tables and code: %q", got)
	}
	if got := checkMarkdown(long); len(got) != 1 {
		t.Errorf("a wide line: %q", got)
	}
	prose, code := checkSource(t, "x.go", "package x\n\n// "+long+"\nvar x = \""+long+long+"\" // nil: all\n")
	if len(prose) != 2 || len(code) != 1 {
		t.Errorf("a wide comment, a default and wide code: %q, %q", prose, code)
	}
}
