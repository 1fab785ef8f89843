import io

from core.pipeline import tables


def test_groups_are_words_whatever_their_name_and_cells():
    text = 'file,"group_grade, WHO",group_site,member_1\na.png,1,01,0.25\nb.png,,NA,0.5\n'
    table = tables.parse(io.StringIO(text), ["file"])
    assert tables.groups(table) == ["group_grade, WHO", "group_site"]
    assert table["group_site"].tolist() == ["01", "NA"] and table["group_grade, WHO"].fillna("-").tolist() == ["1", "-"]
    assert table["member_1"].tolist() == [0.25, 0.5]
