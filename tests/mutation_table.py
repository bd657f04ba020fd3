"""What `make mutation` found, one row per module: how many changes to its code the tests noticed.

mutants: all changes that mutmut makes; covered: those on lines that the tests run, in functions that they call.
score: killed and timed out over covered.
"""
from mutmut.mutation.data import SourceFileMutationData
from mutmut.mutation.file_mutation import mutate_file_contents
from mutmut.stats import collect_stat
from mutmut.utils.file_utils import walk_mutatable_files

if __name__ == "__main__":
    print(f"{'file':30}{'mutants':>9}{'covered':>9}{'killed':>9}{'survived':>9}{'timed out':>11}{'score':>8}")
    for path in sorted(walk_mutatable_files()):
        results = SourceFileMutationData(path=path)
        results.load()
        stat = collect_stat(results)
        mutants = len(mutate_file_contents(str(path), path.read_text(encoding="utf-8")).mutant_names)
        covered = stat.total - stat.no_tests
        noticed = stat.killed + stat.timeout
        print(f"{path!s:30}{mutants:9}{covered:9}{stat.killed:9}{covered - noticed:9}{stat.timeout:11}"
              f"{noticed / covered:8.1%}")
