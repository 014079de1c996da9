package chromium

import (
	"image/png"
	"os"
	"path/filepath"
)

// Picture takes a screenshot and checks that it is an image. An empty file means a temporary one.
func (p *Page) Picture(file string) {
	t := p.b.t
	t.Helper()
	if file == "" {
		file = filepath.Join(t.TempDir(), "page.png")
	}
	if err := p.Screenshot(file); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	img, err := png.Decode(f)
	if err != nil {
		t.Fatal(err)
	}
	if size := img.Bounds().Size(); size.X < 300 || size.Y < 300 {
		t.Errorf("the picture has %v pixels", size)
	}
}
