package script

import (
	"os"
	"testing"
)

// The file is what drpcd's side of the script answers with.
func TestAnswersAreThoseOfTheFile(t *testing.T) {
	t.Parallel()
	const path = "../../../tests/captures/answers.txt"
	want, err := AnswersText()
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Fatalf("%s is old: drpc-interop script-answers --output tests/captures/answers.txt", path)
	}
}
